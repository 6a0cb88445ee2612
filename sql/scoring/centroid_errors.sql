-- a (scoring, neuron) of the frame `shown`, the scoring by scorer centroid: the standard error of its score, over the prompts
-- on which it fired (method: equation 6); null for a neuron that fired on one, or has no score
with chosen as (
    select w.scoring_id, w.neuron, g.topic_id, g.sae_key, s.g, r.mass_mean, r.support
    from shown as w
    join scorings as g on g.scoring_id = w.scoring_id
    join scores as s on s.scoring_id = w.scoring_id and s.neuron = w.neuron
    join neurons as r on r.sae_key = g.sae_key and r.neuron = w.neuron
    where g.scorer = 'centroid' and s.score is not null
), ranges as (
    select s.scoring_id, max(s.g) - min(s.g) as width
    from scores as s
    where s.score is not null and s.scoring_id in (select c.scoring_id from chosen as c)
    group by s.scoring_id
), weights as (
    select c.scoring_id, c.neuron, c.topic_id, c.g, c.mass_mean, c.support, a.prompt_id, a.act_sum / p.sum_total as weight
    from chosen as c
    join activations as a on a.sae_key = c.sae_key and a.neuron = c.neuron
    join prompt_totals as p on p.sae_key = c.sae_key and p.prompt_id = a.prompt_id
), distances as (
    select d.topic_id, d.prompt_id, avg(pow(list_distance(e.vector, x.vector)::double, 2)) as far
    from (select distinct w.topic_id, w.prompt_id from weights as w) as d
    join embeddings as e on e.prompt_id = d.prompt_id
    join topic_texts as x on x.topic_id = d.topic_id
    group by d.topic_id, d.prompt_id
)
select
    w.scoring_id, w.neuron,
    case when any_value(w.support) > 1 then
        sqrt(sum(w.weight * w.weight * (d.far - w.g) * (d.far - w.g))) / any_value(w.mass_mean) / any_value(r.width)
    end as se
from weights as w
join distances as d on d.topic_id = w.topic_id and d.prompt_id = w.prompt_id
join ranges as r on r.scoring_id = w.scoring_id
group by w.scoring_id, w.neuron
order by w.scoring_id, w.neuron
