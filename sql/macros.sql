-- What users call, from any DuckDB client. A macro's parameter that is also a column name in scope would silently be the
-- column: each macro first puts its parameters into a row of their own, under other names.
-- `sae` is a sae_id or a sae_key; null means every SAE. `scoring` is a scoring_id; null means the current one of the
-- scorer, which is `distance` unless another is named. `by` is 'score', or 'z' for the neurons farthest
-- below random topics; null means z where there is one.

create or replace macro top_neurons(topic, n, sae := null, scoring := null, scorer := 'distance', "by" := null) as table
with wanted as (
    select
        topic as wanted_topic, n as wanted_n, sae::varchar as wanted_sae, scoring as wanted_scoring,
        scorer as wanted_scorer, "by" as wanted_by
), found as (
    select
        t.name as topic, e.release, e.sae_id, g.sae_key, g.scoring_id, s.neuron, s.score, s.se, s.z, s.g, r.support,
        r.top_tokens, w.wanted_n,
        coalesce(w.wanted_by, case when count(s.z) over (partition by g.scoring_id) > 0 then 'z' end) as order_by
    from wanted as w
    join topics as t on t.name = w.wanted_topic
    join scorings as g on g.topic_id = t.topic_id
    join saes as e on e.sae_key = g.sae_key
    join scores as s on s.scoring_id = g.scoring_id
    join neurons as r on r.sae_key = g.sae_key and r.neuron = s.neuron
    where s.score is not null
        and coalesce(g.scoring_id = w.wanted_scoring, g.is_current and g.scorer = w.wanted_scorer)
        and coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
), ranked as (
    select
        o.*,
        row_number() over (
            partition by o.scoring_id
            order by case o.order_by when 'z' then -o.z else o.score end desc nulls last, o.neuron
        ) as rank
    from found as o
), best as (
    select k.* from ranked as k where k.rank <= k.wanted_n
), words as (
    select b.sae_key, b.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from best as b
    join examples as x on x.sae_key = b.sae_key and x.neuron = b.neuron
    group by b.sae_key, b.neuron, lower(trim(x.token))
), fires as (
    select v.sae_key, v.neuron, list(v.word order by v.first_rank)[:5] as fires_on
    from words as v
    group by v.sae_key, v.neuron
)
select
    b.topic, b.release, b.sae_id, b.scoring_id, b.rank, b.neuron, b.score, b.se, b.z, b.g, b.support, f.fires_on,
    b.top_tokens, l.label
from best as b
left join fires as f on f.sae_key = b.sae_key and f.neuron = b.neuron
left join neuron_labels as l on l.sae_key = b.sae_key and l.neuron = b.neuron
order by b.scoring_id, b.rank;

create or replace macro why(topic, neuron, sae := null, scoring := null, scorer := 'distance') as table
with wanted as (
    select
        topic as wanted_topic, neuron as wanted_neuron, sae::varchar as wanted_sae, scoring as wanted_scoring,
        scorer as wanted_scorer
), chosen as (
    select g.scoring_id, g.topic_id, g.sae_key, g.scorer, g.summary, g.distance, g.power, w.wanted_neuron, e.release, e.sae_id
    from wanted as w
    join topics as t on t.name = w.wanted_topic
    join scorings as g on g.topic_id = t.topic_id
    join saes as e on e.sae_key = g.sae_key
    where g.scorer in ('distance', 'centroid')
        and coalesce(g.scoring_id = w.wanted_scoring, g.is_current and g.scorer = w.wanted_scorer)
        and coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
), weights as (
    select
        c.scoring_id, c.topic_id, c.release, c.sae_id, c.scorer, c.distance, c.power, a.prompt_id,
        case c.summary
            when 'mean' then a.act_sum / p.sum_total / r.mass_mean
            when 'max' then a.act_max / p.max_total / r.mass_max
            when 'count' then a.act_count / p.count_total / r.mass_count
        end as weight
    from chosen as c
    join activations as a on a.sae_key = c.sae_key and a.neuron = c.wanted_neuron
    join prompt_totals as p on p.sae_key = c.sae_key and p.prompt_id = a.prompt_id
    join neurons as r on r.sae_key = c.sae_key and r.neuron = c.wanted_neuron
), distances as (
    select
        w.scoring_id, w.prompt_id,
        case w.scorer  -- centroid: of the mean squared distance to the texts, where distance takes the nearest
            when 'centroid' then sqrt(avg(pow(list_distance(v.vector, x.vector)::double, 2)))
            else min(list_distance(v.vector, x.vector))::double
        end as euclidean
    from weights as w
    join embeddings as v on v.prompt_id = w.prompt_id
    join topic_texts as x on x.topic_id = w.topic_id
    group by w.scoring_id, w.prompt_id, w.scorer
)
select
    w.release, w.sae_id, w.scoring_id, w.prompt_id, q.text, q.source,
    case w.distance when 'cosine' then d.euclidean * d.euclidean / 2 else d.euclidean end as distance,
    w.weight,
    w.weight * pow(case w.distance when 'cosine' then d.euclidean * d.euclidean / 2 else d.euclidean end, w.power)
        as contribution
from weights as w
join distances as d on d.scoring_id = w.scoring_id and d.prompt_id = w.prompt_id
join prompts as q on q.prompt_id = w.prompt_id
order by w.scoring_id, w.weight desc, w.prompt_id;

create or replace macro compare_topics(a, b, sae := null) as table
with wanted as (select a as wanted_a, b as wanted_b, sae::varchar as wanted_sae),
centred as (
    select
        t.name as topic, g.sae_key, e.release, e.sae_id, s.neuron, s.score,
        s.g - avg(s.g) over (partition by g.scoring_id) as centred_g
    from wanted as w
    join topics as t on t.name in (w.wanted_a, w.wanted_b)
    join scorings as g on g.topic_id = t.topic_id and g.is_current and g.scorer = 'distance'
    join saes as e on e.sae_key = g.sae_key
    join scores as s on s.scoring_id = g.scoring_id
    where s.score is not null
        and coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
)
select
    x.release, x.sae_id, x.neuron, x.score as score_a, y.score as score_b,
    y.centred_g - x.centred_g as closer_to_a, r.top_tokens
from wanted as w
join centred as x on x.topic = w.wanted_a
join centred as y on y.topic = w.wanted_b and y.sae_key = x.sae_key and y.neuron = x.neuron
join neurons as r on r.sae_key = x.sae_key and r.neuron = x.neuron
order by closer_to_a desc, x.neuron;

create or replace macro coverage() as table
select c.* from neuron_coverage as c order by c.sae_key;

create or replace macro similar_neurons(neuron, sae := null) as table
with wanted as (select neuron as wanted_neuron, sae::varchar as wanted_sae),
own as (
    select a.sae_key, a.neuron as own_neuron, a.prompt_id, a.act_sum::double as own_sum
    from wanted as w
    join activations as a on a.neuron = w.wanted_neuron
    join saes as e on e.sae_key = a.sae_key
    where coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
), lengths as (
    select a.sae_key, a.neuron, sqrt(sum(a.act_sum::double * a.act_sum)) as length
    from activations as a
    group by a.sae_key, a.neuron
), products as (
    select o.sae_key, o.own_neuron, a.neuron, sum(o.own_sum * a.act_sum) as product, count(*) as shared_prompts
    from own as o
    join activations as a on a.sae_key = o.sae_key and a.prompt_id = o.prompt_id
    where a.neuron <> o.own_neuron
    group by o.sae_key, o.own_neuron, a.neuron
)
select e.release, e.sae_id, p.neuron, p.product / (x.length * y.length) as cosine, p.shared_prompts, r.top_tokens
from products as p
join saes as e on e.sae_key = p.sae_key
join lengths as x on x.sae_key = p.sae_key and x.neuron = p.own_neuron
join lengths as y on y.sae_key = p.sae_key and y.neuron = p.neuron
join neurons as r on r.sae_key = p.sae_key and r.neuron = p.neuron
order by cosine desc, p.neuron;

create or replace macro search_neurons(vector, n, sae := null, texts := 1, "by" := 'z') as table
with wanted as (
    select
        vector::float[] as wanted_vector, n as wanted_n, sae::varchar as wanted_sae, texts as wanted_texts, "by" as wanted_by
), products as (  -- of their own, before anything is joined: vectors are not carried along
    select
        v.sae_key, v.neuron, v.expected_g, v.spread, w.wanted_n, w.wanted_sae, w.wanted_texts, w.wanted_by,
        v.square + 1 - 2 * coalesce(list_inner_product(v.vector, w.wanted_vector), 'nan')::double as g
    from wanted as w
    join neuron_vectors as v on true
), near as (
    select p.*, r.support
    from products as p
    join neurons as r on r.sae_key = p.sae_key and r.neuron = p.neuron
    join saes as e on e.sae_key = p.sae_key
    where r.support >= 20 and coalesce(e.sae_id = p.wanted_sae or e.sae_key::varchar = p.wanted_sae, true)
), means as (
    select x.sae_key, min(x.g) as lowest, max(x.g) as highest, avg(x.g) as mean_g, avg(x.expected_g) as mean_expected_g
    from near as x
    group by x.sae_key
), scored as (
    select
        x.sae_key, x.neuron, x.support, x.g, x.wanted_n, x.wanted_by,
        1 - (x.g - m.lowest) / nullif(m.highest - m.lowest, 0) as score,
        (x.g - m.mean_g - x.expected_g + m.mean_expected_g) * sqrt(x.wanted_texts) / nullif(2 * x.spread, 0) as z
    from near as x
    join means as m on m.sae_key = x.sae_key
), best as (
    select
        s.*,
        row_number() over (
            partition by s.sae_key
            order by case s.wanted_by when 'score' then s.score else -s.z end desc nulls last, s.neuron
        ) as rank
    from scored as s
    qualify rank <= s.wanted_n
), words as (
    select b.sae_key, b.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from best as b
    join examples as x on x.sae_key = b.sae_key and x.neuron = b.neuron
    group by b.sae_key, b.neuron, lower(trim(x.token))
), fires as (
    select v.sae_key, v.neuron, list(v.word order by v.first_rank)[:5] as fires_on
    from words as v
    group by v.sae_key, v.neuron
)
select e.release, e.sae_id, b.sae_key, b.rank, b.neuron, b.z, b.score, b.g, b.support, f.fires_on, n.top_tokens, l.label
from best as b
join saes as e on e.sae_key = b.sae_key
join neurons as n on n.sae_key = b.sae_key and n.neuron = b.neuron
left join fires as f on f.sae_key = b.sae_key and f.neuron = b.neuron
left join neuron_labels as l on l.sae_key = b.sae_key and l.neuron = b.neuron
order by b.sae_key, b.rank;

create or replace macro nearest_neurons(neuron, n, sae := null, other := null) as table
with wanted as (
    select neuron as wanted_neuron, n as wanted_n, sae::varchar as wanted_sae, other::varchar as wanted_other
), own as (
    select
        v.sae_key as own_key, e.sae_id as own_sae_id, v.neuron as own_neuron, v.vector as own_vector, w.wanted_n, w.wanted_other,
        m.mean, list_inner_product(m.mean, m.mean) as mean_square, list_inner_product(v.vector, m.mean) as own_mean,
        list_inner_product(v.vector, v.vector) as own_square
    from wanted as w
    join neuron_vectors as v on v.neuron = w.wanted_neuron
    join saes as e on e.sae_key = v.sae_key
    cross join embedding_moments as m
    where coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
), near as (
    select
        o.own_key, o.own_sae_id, o.wanted_n, v.sae_key, v.neuron, r.support, r.top_tokens,
        (list_inner_product(v.vector, o.own_vector) - o.own_mean - list_inner_product(v.vector, o.mean) + o.mean_square)
        / sqrt(nullif(greatest(o.own_square - 2 * o.own_mean + o.mean_square, 0), 0))
        / sqrt(nullif(greatest(
            list_inner_product(v.vector, v.vector) - 2 * list_inner_product(v.vector, o.mean) + o.mean_square, 0
        ), 0)) as cosine
    from own as o
    join saes as e on coalesce(e.sae_id = o.wanted_other or e.sae_key::varchar = o.wanted_other, e.sae_key = o.own_key)
    join neuron_vectors as v on v.sae_key = e.sae_key
    join neurons as r on r.sae_key = v.sae_key and r.neuron = v.neuron
    where r.support >= 20 and not (v.sae_key = o.own_key and v.neuron = o.own_neuron)
), best as (
    select
        x.*,
        row_number() over (partition by x.own_key, x.sae_key order by x.cosine desc nulls last, x.neuron) as rank
    from near as x
    qualify rank <= x.wanted_n
), words as (
    select b.sae_key, b.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from (select distinct b.sae_key, b.neuron from best as b) as b
    join examples as x on x.sae_key = b.sae_key and x.neuron = b.neuron
    group by b.sae_key, b.neuron, lower(trim(x.token))
), fires as (
    select v.sae_key, v.neuron, list(v.word order by v.first_rank)[:5] as fires_on
    from words as v
    group by v.sae_key, v.neuron
)
select
    b.own_sae_id, e.release, e.sae_id, b.sae_key, b.rank, b.neuron, b.cosine, b.support, f.fires_on, b.top_tokens, l.label
from best as b
join saes as e on e.sae_key = b.sae_key
left join fires as f on f.sae_key = b.sae_key and f.neuron = b.neuron
left join neuron_labels as l on l.sae_key = b.sae_key and l.neuron = b.neuron
order by b.own_key, b.sae_key, b.rank;
