-- one row: how much there is in the atlas
select
    (select count(*) from prompts) as prompts,
    (select count(*) from saes) as saes,
    (select count(*) from activations) as rows,
    (select count(*) from topics) as topics,
    (select count(*) from generations) as generations,
    (select count(*) from shards where finished_at is null) as pending_shards
