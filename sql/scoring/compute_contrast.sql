-- temp table: a (topic, neuron) with the difference of its mean activation between topic texts and reference prompts,
-- and the AUROC of the one against the other (Mann-Whitney; ties count half: silence on both sides, and values within 1e-5,
-- which one token gives in batches of different size)
create or replace temp table computed as
with own as (
    select
        a.topic_id, a.text_id, a.neuron,
        (case $summary when 'mean' then a.act_sum / x.n_tokens when 'max' then a.act_max else a.act_count / x.n_tokens end)
        ::double as value
    from wanted as w
    join topic_activations as a on a.topic_id = w.topic_id and a.sae_key = $sae_key
    join topic_texts as x on x.topic_id = a.topic_id and x.text_id = a.text_id
), others as (
    select
        a.neuron,
        (case $summary when 'mean' then a.act_sum / q.n_tokens when 'max' then a.act_max else a.act_count / q.n_tokens end)
        ::double as value
    from activations as a
    join prompts as q on q.prompt_id = a.prompt_id
    where a.sae_key = $sae_key
), other_means as (
    select o.neuron, sum(o.value) as total from others as o group by o.neuron
), own_sums as (
    select o.topic_id, o.neuron, count(*) as fired, sum(o.value) as total from own as o group by o.topic_id, o.neuron
), wins as (
    select
        o.topic_id, o.neuron,
        count(*) filter (where p.value < o.value * (1 - 1e-5))
        + 0.5 * count(*) filter (where p.value between o.value * (1 - 1e-5) and o.value * (1 + 1e-5)) as pairs_won
    from own as o
    join others as p on p.neuron = o.neuron
    group by o.topic_id, o.neuron
), sizes as (
    select w.topic_id, count(*) as texts, (select count(*) from prompts) as prompts
    from wanted as w
    join topic_texts as x on x.topic_id = w.topic_id
    group by w.topic_id
), compared as (
    select
        z.topic_id, n.neuron, n.support >= $min_support as eligible,
        coalesce(s.total, 0) / z.texts - coalesce(m.total, 0) / z.prompts as g,
        (
            coalesce(v.pairs_won, 0) + coalesce(s.fired, 0) * (z.prompts - n.support)
            + 0.5 * (z.texts - coalesce(s.fired, 0)) * (z.prompts - n.support)
        ) / (z.texts * z.prompts) as auroc
    from sizes as z
    cross join neurons as n
    left join own_sums as s on s.topic_id = z.topic_id and s.neuron = n.neuron
    left join wins as v on v.topic_id = z.topic_id and v.neuron = n.neuron
    left join other_means as m on m.neuron = n.neuron
    where n.sae_key = $sae_key
), ranges as (
    select c.topic_id, min(c.auroc) as lowest, max(c.auroc) as highest, count(*) as eligible
    from compared as c
    where c.eligible
    group by c.topic_id
)
select
    c.topic_id, c.neuron, c.g, coalesce(r.eligible, 0) as eligible, r.lowest, r.highest,
    case when c.eligible then c.auroc end as score,
    null::double as se
from compared as c
left join ranges as r on r.topic_id = c.topic_id
