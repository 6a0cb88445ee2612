-- the prompts of the frame `left_out` (prompt_id) go, the others are numbered from 0 in their order, neurons are settled over
-- them, and topics with what was made of them go too
create or replace temp table renumbered as
select p.prompt_id as old_id, (row_number() over (order by p.prompt_id) - 1)::uinteger as new_id
from prompts as p
where p.prompt_id not in (select l.prompt_id from left_out as l);
delete from prompts where prompt_id in (select l.prompt_id from left_out as l);
delete from embeddings where prompt_id in (select l.prompt_id from left_out as l);
delete from activations where prompt_id in (select l.prompt_id from left_out as l);
delete from prompt_totals where prompt_id in (select l.prompt_id from left_out as l);
delete from examples;
delete from token_values;
update prompts set prompt_id = r.new_id from renumbered as r where prompts.prompt_id = r.old_id;
update embeddings set prompt_id = r.new_id from renumbered as r where embeddings.prompt_id = r.old_id;
update activations set prompt_id = r.new_id from renumbered as r where activations.prompt_id = r.old_id;
update prompt_totals set prompt_id = r.new_id from renumbered as r where prompt_totals.prompt_id = r.old_id;
delete from scores;
delete from scorings;
delete from null_scores;
delete from nulls;
delete from topic_activations;
delete from topic_texts;
delete from topics;
update neurons set
    support = coalesce(s.support, 0),
    mass_mean = coalesce(s.mass_mean, 0), mass_max = coalesce(s.mass_max, 0), mass_count = coalesce(s.mass_count, 0),
    square_mean = coalesce(s.square_mean, 0), square_max = coalesce(s.square_max, 0),
    square_count = coalesce(s.square_count, 0),
    density = coalesce(s.tokens, 0) / (select sum(q.n_tokens) from prompts as q),
    max_activation = coalesce(s.max_activation, 0)
from (
    select n.sae_key, n.neuron, s.* exclude (sae_key, neuron)
    from neurons as n
    left join neuron_sums as s on s.sae_key = n.sae_key and s.neuron = n.neuron
) as s
where neurons.sae_key = s.sae_key and neurons.neuron = s.neuron
