-- What users read: names spelt out, current scorings only.

create or replace view neuron_scores as
select
    t.name as topic, e.model, e.release, e.sae_id, g.scorer, g.summary, s.neuron, n.support, s.g, s.score, s.se, s.z,
    case when s.score is not null then
        row_number() over (partition by t.name, e.release, e.sae_id, g.scoring_id order by s.score desc nulls last, s.neuron)
    end as rank,
    n.top_tokens
from scorings as g
join topics as t on t.topic_id = g.topic_id
join saes as e on e.sae_key = g.sae_key
join scores as s on s.scoring_id = g.scoring_id
join neurons as n on n.sae_key = g.sae_key and n.neuron = s.neuron
where g.is_current;
comment on view neuron_scores is 'A neuron under a current scoring, with names spelt out';

create or replace view neuron_signals as
select
    t.name as topic, e.release, e.sae_id, e.sae_key, n.neuron,
    max(s.score) filter (where g.scorer = 'distance') as score,
    max(s.se) filter (where g.scorer = 'distance') as se,
    max(s.z) filter (where g.scorer = 'distance') as z,
    max(s.g) filter (where g.scorer = 'contrast') as contrast,
    max(s.score) filter (where g.scorer = 'contrast') as auroc,
    max(s.g) filter (where g.scorer = 'strawman') as strawman,
    max(s.g) filter (where g.scorer = 'output') as output,
    n.support, n.density, n.max_activation, n.decoder_norm, n.top_tokens
from scorings as g
join topics as t on t.topic_id = g.topic_id
join saes as e on e.sae_key = g.sae_key
join scores as s on s.scoring_id = g.scoring_id
join neurons as n on n.sae_key = g.sae_key and n.neuron = s.neuron
where g.is_current
group by all;
comment on view neuron_signals is 'A neuron of a topic with every scorer''s current figures side by side: score, se and z by distance; contrast and auroc by contrast; strawman; output';

create or replace view neuron_coverage as
select
    e.sae_key, e.release, e.sae_id, e.architecture, e.hook_name, e.d_sae as neurons,
    count(*) filter (where n.support >= 1) as fired,
    count(*) filter (where n.support >= 20) as supported,
    count(*) filter (where n.support >= 1) / count(*) as coverage,
    count(*) filter (where n.support >= 20) / count(*) as coverage_20
from saes as e
join neurons as n on n.sae_key = e.sae_key
group by all;
comment on view neuron_coverage is 'An SAE: how many of its neurons fired on at least 1 and at least 20 reference prompts';
