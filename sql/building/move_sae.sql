-- where an SAE of the atlas is now
update saes set release = $release, sae_id = $sae_id where sae_key = $sae_key
