-- a shard is in
update shards set rows = $rows, finished_at = $finished_at
where sae_key = $sae_key and first_prompt = $first and finished_at is null
