-- temp table: a (topic, neuron) with its mean activation on the topic's texts, mapped to [0, 1]
create or replace temp table computed as
with sums as (
    select
        a.topic_id, a.neuron,
        sum(case $summary when 'mean' then a.act_sum / x.n_tokens when 'max' then a.act_max else a.act_count / x.n_tokens end)
        as total
    from wanted as w
    join topic_activations as a on a.topic_id = w.topic_id and a.sae_key = $sae_key
    join topic_texts as x on x.topic_id = a.topic_id and x.text_id = a.text_id
    group by a.topic_id, a.neuron
), means as (
    select
        w.topic_id, n.neuron, n.support >= $min_support as eligible,
        coalesce(s.total, 0) / (select count(*) from topic_texts as x where x.topic_id = w.topic_id) as g
    from wanted as w
    cross join neurons as n
    left join sums as s on s.topic_id = w.topic_id and s.neuron = n.neuron
    where n.sae_key = $sae_key
), ranges as (
    select m.topic_id, min(m.g) as lowest, max(m.g) as highest, count(*) as eligible
    from means as m
    where m.eligible
    group by m.topic_id
)
select
    m.topic_id, m.neuron, m.g, coalesce(r.eligible, 0) as eligible, r.lowest, r.highest,
    case when m.eligible then (m.g - r.lowest) / nullif(r.highest - r.lowest, 0) end as score,
    null::double as se
from means as m
left join ranges as r on r.topic_id = m.topic_id
