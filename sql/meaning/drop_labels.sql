-- the SAEs $sae_keys have no labels of a source any more
delete from labels as l
where l.source = $source and list_contains($sae_keys::uinteger[], l.sae_key)
