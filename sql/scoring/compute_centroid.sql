-- temp table: a (topic, neuron) with its mean squared distance g to the topic's texts, by the neuron's vector, and its score. The
-- frame `means` holds a topic's mean embedding and the mean of its texts' squared lengths.
create or replace temp table computed as
with products as (  -- of their own, before anything is joined: vectors are not carried along
    select
        t.topic_id, v.neuron, v.square + t.square - 2 * coalesce(list_inner_product(v.vector, t.vector), 'nan')::double as g
    from means as t
    cross join neuron_vectors as v
    where v.sae_key = $sae_key
), sums as (
    select t.topic_id, n.neuron, n.support >= $min_support as eligible, p.g
    from means as t
    cross join neurons as n
    left join products as p on p.topic_id = t.topic_id and p.neuron = n.neuron
    where n.sae_key = $sae_key
), ranges as (
    select m.topic_id, min(m.g) as lowest, max(m.g) as highest, count(m.g) as eligible
    from sums as m
    where m.eligible
    group by m.topic_id
)
select
    m.topic_id, m.neuron, m.g, coalesce(r.eligible, 0) as eligible, r.lowest, r.highest,
    case when m.eligible then 1 - (m.g - r.lowest) / nullif(r.highest - r.lowest, 0) end as score,
    null::double as se
from sums as m
left join ranges as r on r.topic_id = m.topic_id
