-- what of the data cannot be so in an atlas, and the value; no row in one that this program wrote. Cheap: no texts, no vectors
with unfit as (
    select 1 as nr, 'table atlas has more than one row' as fault, count(*)::varchar as "value"
    from atlas as a having count(*) > 1
    union all
    select 2, 'table atlas has no row', null
    where not exists (from atlas) and exists (from saes)
    union all
    select 3, 'its state is neither building nor complete', a.state from atlas as a
    where coalesce(a.state, '') not in ('building', 'complete')
    union all
    select 4, 'its row in table atlas has an empty place', null from atlas as a
    where a.schema_version is null or a.encoder is null or a.encoder_hash is null or a.reference_hash is null
        or a.created_at is null
    union all
    select 5, 'it has no SAE', null from atlas as a
    where a.state = 'complete' and not exists (from saes)
    union all
    select 6, 'an SAE has an empty place', s.sae_id from saes as s
    where
        s.sae_key is null or s.model is null or s.model_hash is null or s.tokenizer_hash is null or s.release is null
        or s.sae_id is null or s.sae_hash is null or s.hook_name is null or s.d_in is null or s.d_sae is null
        or s.dtype is null or s.context_size is null or s.prepend_bos is null or s.center_writing_weights is null
    union all
    select 7, 'two SAEs have one key', s.sae_key::varchar from saes as s group by s.sae_key having count(*) > 1
    union all
    select 8, 'an SAE is of an unknown number format', s.dtype from saes as s
    where s.dtype not in ('float32', 'bfloat16', 'float16')
    union all
    select 9, 'an SAE has an impossible size', s.d_in || ' to ' || s.d_sae from saes as s
    where s.d_in not between 1 and 1048576 or s.d_sae < 1 or s.context_size < 1
    union all
    select 10, 'an SAE has other neurons than its d_sae says', s.sae_id
    from saes as s
    left join (
        select n.sae_key, count(*) as neurons, count(distinct n.neuron) as different, max(n.neuron) as last
        from neurons as n group by n.sae_key
    ) as f on f.sae_key = s.sae_key
    where f.neurons is distinct from s.d_sae or f.different <> s.d_sae or f.last <> s.d_sae - 1
    union all
    select 11, 'table ' || f.name || ' names an SAE that is not there', f.sae_key::varchar
    from (
        select 'neurons' as name, n.sae_key from neurons as n group by n.sae_key
        union all select 'scorings', g.sae_key from scorings as g group by g.sae_key
        union all select 'shards', h.sae_key from shards as h group by h.sae_key
        union all select 'nulls', u.sae_key from nulls as u group by u.sae_key
        union all select 'vectors', v.sae_key from vectors as v group by v.sae_key
        union all select 'prompt_totals', t.sae_key from prompt_totals as t group by t.sae_key
        union all select 'neuron_vectors', c.sae_key from neuron_vectors as c group by c.sae_key
        union all select 'labels', l.sae_key from labels as l group by l.sae_key
        union all select 'map', p.sae_key from map as p group by p.sae_key
        union all select 'notes', o.sae_key from notes as o group by o.sae_key
        union all select 'token_values', k.sae_key from token_values as k group by k.sae_key
        union all select 'token_logits', w.sae_key from token_logits as w group by w.sae_key
        union all select 'logit_histograms', b.sae_key from logit_histograms as b group by b.sae_key
    ) as f
    where f.sae_key is null or not exists (from saes as s where s.sae_key = f.sae_key)
    union all
    select 12, 'a neuron has an empty or impossible figure', n.neuron::varchar
    from neurons as n
    where
        not isfinite(coalesce(n.decoder_norm, 'nan')) or (
            (select min(a.state) from atlas as a) = 'complete' and (
                n.support is null or not isfinite(coalesce(n.max_activation, 'nan'))
                or not isfinite(coalesce(n.density, 'nan') + coalesce(n.mass_mean + n.mass_max + n.mass_count, 'nan'))
                or not isfinite(coalesce(n.square_mean + n.square_max + n.square_count, 'nan'))
            )
        )
    union all
    select 13, 'its prompts are not numbered from 0 on without a gap', null
    from prompts as p
    having
        exists (from atlas)
        and (count(*) <> count(distinct p.prompt_id) or coalesce(max(p.prompt_id) + 1, 0) <> count(*))
    union all
    select 14, 'a prompt has no text or no number of tokens', p.prompt_id::varchar
    from prompts as p where (p.text is null or p.n_tokens is null) and exists (from atlas)
    union all
    select 15, 'it has other embeddings than prompts', count(*)::varchar
    from embeddings as e
    having (select min(a.state) from atlas as a) = 'complete' and (
        count(*) <> (select count(*) from prompts) or count(distinct e.prompt_id) <> count(*)
        or max(e.prompt_id) + 1 <> count(*)
    )
    union all
    select 16, 'a piece of its build is not done', h.shard::varchar
    from shards as h
    where h.finished_at is null and (select min(a.state) from atlas as a) = 'complete'
    union all
    select 17, 'table ' || f.name || ' has a prompt or a neuron that is not there', null
    from (
        select 'activations' as name, max(a.prompt_id) as prompt_id, max(a.neuron) as neuron from activations as a
        union all select 'examples', max(x.prompt_id), max(x.neuron) from examples as x
        union all select 'prompt_totals', max(t.prompt_id), null from prompt_totals as t
        union all select 'map', null, max(p.neuron) from map as p
        union all select 'notes', null, max(o.neuron) from notes as o
        union all select 'token_values', max(k.prompt_id), max(k.neuron) from token_values as k
        union all select 'token_logits', null, max(w.neuron) from token_logits as w
        union all select 'logit_histograms', null, max(b.neuron) from logit_histograms as b
        union all select 'scores', null, max(c.neuron) from scores as c
        union all select 'null_scores', null, max(l.neuron) from null_scores as l
        union all select 'topic_activations', null, max(t.neuron) from topic_activations as t
        union all select 'pair_codes', null, max(c.neuron) from pair_codes as c
    ) as f
    where
        f.prompt_id >= (select count(*) from prompts)
        or f.neuron >= (select coalesce(max(s.d_sae), 0) from saes as s)
    union all
    select 18, 'two topics have one number or name, or one has none', t.name
    from (
        select t.name, count(*) over (partition by t.name) as names, count(*) over (partition by t.topic_id) as ids,
            t.topic_id
        from topics as t
    ) as t
    where t.names > 1 or t.ids > 1 or t.name is null or t.topic_id is null
    union all
    select 19, 'a topic''s scoring has an empty place, or two have one number', min(g.scoring_id)::varchar
    from scorings as g
    group by g.scoring_id
    having
        count(*) > 1
        or bool_or(
            g.scoring_id is null or g.scorer is null or g.is_current is null or g.reference_hash is null
            or not exists (from topics as t where t.topic_id = g.topic_id)
        )
    union all
    select 20, 'a scoring has other neurons than its SAE', g.scoring_id::varchar
    from scorings as g
    left join saes as s on s.sae_key = g.sae_key
    left join (
        select c.scoring_id, count(*) as neurons, max(c.neuron) as last, sum(c.neuron) as total
        from scores as c group by c.scoring_id
    ) as f on f.scoring_id = g.scoring_id
    where f.neurons is distinct from s.d_sae or f.last <> s.d_sae - 1
        or f.total <> s.d_sae::bigint * (s.d_sae::bigint - 1) // 2
    union all
    select 21, 'a score is not between 0 and 1', c.score::varchar
    from scores as c where not c.score between 0 and 1
    union all
    select 22, 'a vector has an entry beyond its size, or none that is a number', v.name
    from vectors as v
    join vector_entries as x on x.vector_id = v.vector_id
    join saes as s on s.sae_key = v.sae_key
    where
        x."index" is null or not isfinite(coalesce(x."value", 'nan'))
        or x."index" >= case v.kind when 'sas' then s.d_sae when 'dense' then s.d_in else 0 end
    union all
    select 23, 'a generated text has no settings as JSON', f.parameters
    from (
        select r.parameters from runs as r
        union all select c.parameters from calibrations as c
        union all select g.parameters from generations as g
    ) as f
    where not coalesce(json_valid(f.parameters), false)
    union all
    select 24, 'a time is none of the calendar', f.created_at::varchar
    from (
        select a.created_at from atlas as a
        union all select h.finished_at from shards as h
        union all select t.created_at from topics as t
        union all select g.created_at from scorings as g
        union all select v.created_at from vectors as v
        union all select r.created_at from runs as r
        union all select l.created_at from labels as l
        union all select p.created_at from map as p
        union all select o.created_at from notes as o
        union all select c.created_at from calibrations as c
        union all select g.created_at from generations as g
    ) as f
    where f.created_at not between timestamp '1900-01-01' and timestamp '9999-12-31'
    union all
    select 25, 'an SAE has vectors of other neurons than fired', s.sae_id
    from saes as s
    join (
        select c.sae_key, count(*) as vectors, count(distinct c.neuron) as different, count(n.neuron) as fired
        from neuron_vectors as c
        left join neurons as n on n.sae_key = c.sae_key and n.neuron = c.neuron and n.mass_mean > 0
        group by c.sae_key
    ) as f on f.sae_key = s.sae_key
    where f.different <> f.vectors or f.fired <> f.vectors
        or f.vectors <> (select count(*) from neurons as n where n.sae_key = s.sae_key and n.mass_mean > 0)
    union all
    select 26, 'a neuron''s vector has an impossible figure', c.neuron::varchar
    from neuron_vectors as c
    where not isfinite(coalesce(c.square + c.expected_g, 'nan')) or not (isfinite(coalesce(c.spread, 0)) and coalesce(c.spread, 0) >= 0)
    union all
    select 27, 'it has neurons'' vectors and not one row of embedding_moments', count(*)::varchar
    from embedding_moments as m
    having count(*) > 1 or (count(*) = 0 and exists (from neuron_vectors))
    union all
    select 28, 'a label has an empty or impossible place', l.neuron::varchar
    from labels as l
    join saes as s on s.sae_key = l.sae_key
    where l.neuron is null or l.neuron >= s.d_sae or l.source is null or coalesce(trim(l.label), '') = ''
        or not coalesce(l.quality between 0 and 1, true)
    union all
    select 29, 'a neuron has two labels of one source', min(l.neuron)::varchar
    from labels as l group by l.sae_key, l.neuron, l.source having count(*) > 1
    union all
    select 30, 'a neuron''s values on the tokens of a prompt are not whole', k.neuron::varchar
    from token_values as k
    where k.neuron is null or k.prompt_id is null or coalesce(len(k.tokens), 0) = 0
        or len(k.tokens) is distinct from len(k.activations) or list_contains(list_transform(k.tokens, lambda t: t is null), true)
        or not isfinite(coalesce(list_sum(k.activations), 0))
    union all
    select 31, 'a neuron has two rows of values on the tokens of one prompt', min(k.neuron)::varchar
    from token_values as k group by k.sae_key, k.neuron, k.prompt_id having count(*) > 1
    union all
    select 32, 'a logit of a neuron has an empty or impossible place', w.neuron::varchar
    from token_logits as w
    where w.neuron is null or w.rank is null or w.token is null or coalesce(w.side, '') not in ('promoted', 'suppressed')
        or not isfinite(coalesce(w.logit, 'nan'))
    union all
    select 33, 'a neuron has two logits of one rank', min(w.neuron)::varchar
    from token_logits as w group by w.sae_key, w.neuron, w.side, w.rank having count(*) > 1
    union all
    select 34, 'a neuron''s place on a map is empty or impossible', p.neuron::varchar
    from map as p
    where p.neuron is null or coalesce(p.basis, '') not in ('vectors', 'decoder') or not isfinite(coalesce(p.x + p.y, 'nan'))
        or p.seed is null or p.made_of is null
    union all
    select 35, 'a neuron has two places on one map', min(p.neuron)::varchar
    from map as p group by p.sae_key, p.neuron, p.basis having count(*) > 1
    union all
    select 36, 'a note has no list, no neuron or no text', o.list
    from notes as o where coalesce(trim(o.list), '') = '' or o.neuron is null or o.text is null
    union all
    select 37, 'a neuron is in a list twice', min(o.list)
    from notes as o group by o.list, o.sae_key, o.neuron having count(*) > 1
    union all
    select 38, 'a neuron''s histogram of logits is empty or impossible', b.neuron::varchar
    from logit_histograms as b
    where b.neuron is null or not isfinite(coalesce(b.low + b.high, 'nan')) or b.low > b.high
        or coalesce(len(b.counts), 0) not between 1 and 1000 or list_contains(list_transform(b.counts, lambda c: c is null), true)
    union all
    select 39, 'a neuron has two histograms of logits', min(b.neuron)::varchar
    from logit_histograms as b group by b.sae_key, b.neuron having count(*) > 1
)
select u.fault, u."value" from unfit as u order by u.nr limit 1
