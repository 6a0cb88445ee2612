-- every table of the attached atlas `old`, sorted; `neurons` and `examples` are made anew
insert into atlas by name select * from old.atlas;
insert into saes by name select * from old.saes order by sae_key;
insert into prompts by name select * from old.prompts order by prompt_id;
insert into embeddings by name select * from old.embeddings order by prompt_id;
insert into shards by name select * from old.shards order by sae_key, shard;
insert into activations by name select * from old.activations order by sae_key, neuron, prompt_id;
insert into prompt_totals by name select * from old.prompt_totals order by sae_key, prompt_id;
insert into topics by name select * from old.topics order by topic_id;
insert into topic_texts by name select * from old.topic_texts order by topic_id;
insert into scorings by name select * from old.scorings order by scoring_id;
insert into scores by name select * from old.scores order by scoring_id, neuron;
insert into generations by name select * from old.generations order by generation_id;
insert into metrics by name select * from old.metrics order by generation_id, name;
