-- What users read: names spelt out, current scorings only.

create or replace view neuron_labels as
select s.sae_key, s.neuron, min_by(s.label, s.place) as label, min_by(s.source, s.place) as source, min_by(s.quality, s.place) as quality
from (
    select n.sae_key, n.neuron, n.label, 'user' as source, null::float as quality, 0 as place
    from neurons as n
    where n.label is not null
    union all
    select
        l.sae_key, l.neuron, l.label, l.source, l.quality, case l.source when 'user' then 1 when 'words' then 3 else 2 end as place
    from labels as l
    where l.source <> 'words' or l.quality >= 0.75  -- the least quality of a label that is shown
) as s
group by s.sae_key, s.neuron;
comment on view neuron_labels is 'A neuron that has a label to show: a user''s own, else an imported one, else the one of words, where its quality is 0.75 or more';

create or replace view neuron_sums as
with weights as (
    select
        a.sae_key, a.neuron, a.act_count, a.act_max,
        a.act_sum / p.sum_total as mean, a.act_max / p.max_total as peak, a.act_count / p.count_total as share
    from activations as a
    join prompt_totals as p on p.sae_key = a.sae_key and p.prompt_id = a.prompt_id
)
select
    w.sae_key, w.neuron, count(*) as support,
    sum(w.mean) as mass_mean, sum(w.peak) as mass_max, sum(w.share) as mass_count,
    -- squares as products: pow() would take longer than all the rest
    sum(w.mean * w.mean) as square_mean, sum(w.peak * w.peak) as square_max, sum(w.share * w.share) as square_count,
    sum(w.act_count) as tokens, max(w.act_max) as max_activation
from weights as w
group by w.sae_key, w.neuron;
comment on view neuron_sums is 'A neuron that fired, and what `neurons` says of it, summed over the activations anew';

create or replace view neuron_scores as
select
    t.name as topic, e.model, e.release, e.sae_id, g.scorer, g.summary, s.neuron, n.support, s.g, s.score, s.se, s.z,
    case when s.score is not null then
        row_number() over (partition by t.name, e.release, e.sae_id, g.scoring_id order by s.score desc nulls last, s.neuron)
    end as rank,
    n.top_tokens, l.label
from scorings as g
join topics as t on t.topic_id = g.topic_id
join saes as e on e.sae_key = g.sae_key
join scores as s on s.scoring_id = g.scoring_id
join neurons as n on n.sae_key = g.sae_key and n.neuron = s.neuron
left join neuron_labels as l on l.sae_key = g.sae_key and l.neuron = s.neuron
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
    max(s.score) filter (where g.scorer = 'centroid') as centroid,
    max(s.z) filter (where g.scorer = 'centroid') as centroid_z,
    n.support, n.density, n.max_activation, n.decoder_norm, n.top_tokens
from scorings as g
join topics as t on t.topic_id = g.topic_id
join saes as e on e.sae_key = g.sae_key
join scores as s on s.scoring_id = g.scoring_id
join neurons as n on n.sae_key = g.sae_key and n.neuron = s.neuron
where g.is_current
group by all;
comment on view neuron_signals is 'A neuron of a topic with every scorer''s current figures side by side: score, se and z by distance; contrast and auroc by contrast; strawman; output; centroid and centroid_z by centroid';

create or replace view neuron_coverage as
select
    e.sae_key, e.release, e.sae_id, e.architecture, e.hook_name, e.d_sae as neurons,
    count(*) filter (where n.support >= 1) as fired,
    count(*) filter (where n.support >= 20) as supported,
    count(*) filter (where n.support >= 1) / count(*) as coverage,
    count(*) filter (where n.support >= 20) / count(*) as coverage_20
from saes as e
join neurons as n on n.sae_key = e.sae_key
group by all
order by sae_key;
comment on view neuron_coverage is 'An SAE: how many of its neurons fired on at least 1 and at least 20 reference prompts';

create or replace view vector_overlap as
with entries as (
    select v.sae_key, v.kind, v.name, x."index", x.value
    from vectors as v
    join vector_entries as x on x.vector_id = v.vector_id
    where v.is_current
), sizes as (
    select x.sae_key, x.kind, x.name, count(*) as entries, sqrt(sum(x.value * x.value)) as length
    from entries as x
    group by x.sae_key, x.kind, x.name
), products as (
    select a.sae_key, a.kind, a.name as a, b.name as b, count(*) as both, sum(a.value * b.value) as product
    from entries as a
    join entries as b on b.sae_key = a.sae_key and b.kind = a.kind and b."index" = a."index" and b.name > a.name
    group by a.sae_key, a.kind, a.name, b.name
)
select
    x.sae_key, s.sae_id, x.name as a, y.name as b, x.kind, x.entries as entries_a, y.entries as entries_b,
    coalesce(p.both, 0) as both, coalesce(p.both, 0) / (x.entries + y.entries - coalesce(p.both, 0)) as jaccard,
    coalesce(p.product, 0) / (x.length * y.length) as cosine
from sizes as x
join sizes as y on y.sae_key = x.sae_key and y.kind = x.kind and y.name > x.name
join saes as s on s.sae_key = x.sae_key
left join products as p on p.sae_key = x.sae_key and p.kind = x.kind and p.a = x.name and p.b = y.name;
comment on view vector_overlap is 'Two behaviours with current vectors of a kind for an SAE: entries of each, entries that both have, those over entries that either has (jaccard), cosine of the vectors';
