-- of a list, the neurons $neurons (null: all) of the SAE $sae_key (null: of all) are in it no more
delete from notes as o
where o.list = $list and coalesce(o.sae_key = $sae_key::uinteger, true)
    and coalesce(list_contains($neurons::uinteger[], o.neuron), true)
