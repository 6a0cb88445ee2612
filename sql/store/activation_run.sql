-- an activation of the neurons $first to $last of an SAE, as a summary has it
select
    a.neuron - $first::uinteger as row, a.prompt_id,
    case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end::double as value
from activations as a
where a.sae_key = $sae_key and a.neuron between $first::uinteger and $last::uinteger
