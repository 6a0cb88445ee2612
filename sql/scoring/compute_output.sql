-- temp table: a (topic, candidate neuron) with its output score
create or replace temp table computed as
select
    c.topic_id, c.neuron, o.output as g, o.output as score, null::double as se,
    count(*) over (partition by c.topic_id) as eligible,
    min(o.output) over (partition by c.topic_id) as lowest, max(o.output) over (partition by c.topic_id) as highest
from candidates as c
join outputs as o on o.neuron = c.neuron
