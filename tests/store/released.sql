-- the schema, views and macros of release 0.1.0, comments left out: atlases that it wrote have them
create table atlas (
    schema_version uinteger,
    state varchar,
    encoder varchar,
    encoder_source varchar,
    encoder_hash varchar,
    reference_hash varchar,
    created_at timestamp,
    libraries varchar
);

create table saes (
    sae_key uinteger,
    model varchar,
    model_hash varchar,
    tokenizer_hash varchar,
    release varchar,
    sae_id varchar,
    sae_hash varchar,
    hook_name varchar,
    architecture varchar,
    d_in uinteger,
    d_sae uinteger,
    dtype varchar,
    context_size uinteger,
    prepend_bos boolean,
    center_writing_weights boolean,
    normalize_activations varchar,
    reshape_activations varchar,
    neuronpedia_id varchar
);

create table prompts (prompt_id uinteger, text varchar, source varchar, n_tokens uinteger);

create table embeddings (prompt_id uinteger, vector float[]);

create table shards (
    sae_key uinteger,
    shard uinteger,
    first_prompt uinteger,
    prompts uinteger,
    rows ubigint,
    finished_at timestamp
);

create table activations (
    sae_key uinteger,
    neuron uinteger,
    prompt_id uinteger,
    act_sum float,
    act_max float,
    act_count uinteger
);

create table prompt_totals (
    sae_key uinteger,
    prompt_id uinteger,
    sum_total double,
    max_total double,
    count_total double
);

create table neurons (
    sae_key uinteger,
    neuron uinteger,
    support uinteger,
    mass_mean double,
    mass_max double,
    mass_count double,
    square_mean double,
    square_max double,
    square_count double,
    density double,
    max_activation float,
    decoder_norm float,
    top_tokens varchar[],
    label varchar
);

create table examples (
    sae_key uinteger,
    neuron uinteger,
    rank uinteger,
    prompt_id uinteger,
    "position" uinteger,
    token varchar,
    activation float,
    context varchar
);

create table topics (topic_id uinteger, name varchar, created_at timestamp);

create table topic_texts (topic_id uinteger, text_id uinteger, text varchar, n_tokens uinteger, vector float[]);

create table topic_activations (
    topic_id uinteger,
    sae_key uinteger,
    text_id uinteger,
    neuron uinteger,
    act_sum float,
    act_max float,
    act_count uinteger
);

create table scorings (
    scoring_id uinteger,
    topic_id uinteger,
    sae_key uinteger,
    scorer varchar,
    summary varchar,
    distance varchar,
    power double,
    min_support uinteger,
    null_topics uinteger,
    candidates uinteger,
    reference_hash varchar,
    rank_stability double,
    top_overlap double,
    bootstraps uinteger,
    is_current boolean,
    created_at timestamp
);

create table scores (scoring_id uinteger, neuron uinteger, g double, score double, se double, z double);

create table nulls (
    null_id uinteger,
    sae_key uinteger,
    summary varchar,
    distance varchar,
    power double,
    min_support uinteger,
    null_topics uinteger,
    texts uinteger,
    reference_hash varchar
);

create table null_scores (null_id uinteger, neuron uinteger, mean double, sd double);

create table pairs (name varchar, pair_id uinteger, prompt varchar, positive varchar, negative varchar);

create table pair_codes (
    name varchar,
    sae_key uinteger,
    "position" varchar,
    pair_id uinteger,
    side varchar,
    neuron uinteger,
    value float
);

create table vectors (
    vector_id uinteger,
    name varchar,
    kind varchar,
    sae_key uinteger,
    "position" varchar,
    tau double,
    pairs uinteger,
    is_current boolean,
    created_at timestamp
);

create table vector_entries (vector_id uinteger, "index" uinteger, value double);

create table runs (
    run_id uinteger,
    evaluation_id uinteger,
    topic varchar,
    method varchar,
    parameters varchar,
    seed ubigint,
    created_at timestamp
);

create table calibrations (
    topic varchar,
    sae_keys uinteger[],
    method varchar,
    parameters varchar,
    strength double,
    rule varchar,
    created_at timestamp
);

create table generations (
    generation_id uinteger,
    run_id uinteger,
    scoring_ids uinteger[],
    vector_ids uinteger[],
    method varchar,
    parameters varchar,
    prompt varchar,
    text varchar,
    seed ubigint,
    created_at timestamp
);

create table metrics (
    run_id uinteger,
    generation_id uinteger,
    name varchar,
    value double,
    low double,
    high double
);

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

create or replace macro top_neurons(topic, n, sae := null, scoring := null, scorer := 'distance', "by" := 'score') as table
with wanted as (
    select
        topic as wanted_topic, n as wanted_n, sae::varchar as wanted_sae, scoring as wanted_scoring,
        scorer as wanted_scorer, "by" as wanted_by
), best as (
    select
        t.name as topic, e.release, e.sae_id, g.sae_key, g.scoring_id,
        row_number() over (
            partition by g.scoring_id
            order by case w.wanted_by when 'z' then -s.z else s.score end desc nulls last, s.neuron
        ) as rank,
        s.neuron, s.score, s.se, s.z, s.g, r.support, r.top_tokens
    from wanted as w
    join topics as t on t.name = w.wanted_topic
    join scorings as g on g.topic_id = t.topic_id
    join saes as e on e.sae_key = g.sae_key
    join scores as s on s.scoring_id = g.scoring_id
    join neurons as r on r.sae_key = g.sae_key and r.neuron = s.neuron
    where s.score is not null
        and coalesce(g.scoring_id = w.wanted_scoring, g.is_current and g.scorer = w.wanted_scorer)
        and coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
    qualify row_number() over (
        partition by g.scoring_id
        order by case w.wanted_by when 'z' then -s.z else s.score end desc nulls last, s.neuron
    ) <= w.wanted_n
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
    b.top_tokens
from best as b
left join fires as f on f.sae_key = b.sae_key and f.neuron = b.neuron
order by b.scoring_id, b.rank;

create or replace macro why(topic, neuron, sae := null, scoring := null) as table
with wanted as (
    select topic as wanted_topic, neuron as wanted_neuron, sae::varchar as wanted_sae, scoring as wanted_scoring
), chosen as (
    select g.scoring_id, g.topic_id, g.sae_key, g.summary, g.distance, g.power, w.wanted_neuron, e.release, e.sae_id
    from wanted as w
    join topics as t on t.name = w.wanted_topic
    join scorings as g on g.topic_id = t.topic_id
    join saes as e on e.sae_key = g.sae_key
    where coalesce(g.scoring_id = w.wanted_scoring, g.is_current) and g.scorer = 'distance'
        and coalesce(e.sae_id = w.wanted_sae or e.sae_key::varchar = w.wanted_sae, true)
), weights as (
    select
        c.scoring_id, c.topic_id, c.release, c.sae_id, c.distance, c.power, a.prompt_id,
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
    select w.scoring_id, w.prompt_id, min(list_distance(v.vector, x.vector))::double as euclidean
    from weights as w
    join embeddings as v on v.prompt_id = w.prompt_id
    join topic_texts as x on x.topic_id = w.topic_id
    group by w.scoring_id, w.prompt_id
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
