-- make a vector the one of its behaviour, SAE and kind that steering uses
update vectors set is_current = (vector_id = $vector_id)
where name = $behaviour and sae_key = $sae_key and kind = $kind
