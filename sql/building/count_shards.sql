-- one row: how many shards an SAE has
select count(*) as shards from shards as s where s.sae_key = $sae_key
