-- the SAEs $sae_keys have no place on the map of a basis any more
delete from map as p
where p.basis = $basis and list_contains($sae_keys::uinteger[], p.sae_key)
