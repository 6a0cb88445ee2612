-- every table of the attached atlas `old`, sorted; `neurons` and `examples` are made anew, and what is wide or long is copied
-- in parts (copy_prompts, copy_activations)
insert into atlas by name select * from old.atlas;
insert into saes by name select * from old.saes order by sae_key;
insert into shards by name select * from old.shards order by sae_key, shard;
insert into prompt_totals by name select * from old.prompt_totals order by sae_key, prompt_id;
insert into labels by name select * from old.labels order by sae_key, neuron, source;
insert into map by name select * from old.map order by sae_key, basis, neuron;
insert into notes by name select * from old.notes order by list, sae_key, neuron;
insert into token_values by name select * from old.token_values order by sae_key, neuron, prompt_id;
insert into token_logits by name select * from old.token_logits order by sae_key, neuron, side, rank;
insert into logit_histograms by name select * from old.logit_histograms order by sae_key, neuron;
insert into topics by name select * from old.topics order by topic_id;
insert into topic_texts by name select * from old.topic_texts order by topic_id, text_id;
insert into topic_activations by name select * from old.topic_activations order by topic_id, sae_key, text_id, neuron;
insert into scorings by name select * from old.scorings order by scoring_id;
insert into scores by name select * from old.scores order by scoring_id, neuron;
insert into nulls by name select * from old.nulls order by null_id;
insert into null_scores by name select * from old.null_scores order by null_id, neuron;
insert into pairs by name select * from old.pairs order by name, pair_id;
insert into pair_codes by name select * from old.pair_codes order by name, sae_key, "position", pair_id, side, neuron;
insert into vectors by name select * from old.vectors order by vector_id;
insert into vector_entries by name select * from old.vector_entries order by vector_id, "index";
insert into runs by name select * from old.runs order by run_id;
insert into calibrations by name select * from old.calibrations order by created_at;
insert into generations by name select * from old.generations order by generation_id;
insert into metrics by name select * from old.metrics order by run_id, generation_id, name;
