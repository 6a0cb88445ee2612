-- the neurons of the attached atlas `old`, with support, masses and largest activation over today's prompts
insert into neurons by name
with weights as (
    select
        a.sae_key, a.neuron, a.act_count, a.act_max,
        a.act_sum / p.sum_total as mean, a.act_max / p.max_total as peak, a.act_count / p.count_total as share
    from activations as a
    join prompt_totals as p on p.sae_key = a.sae_key and p.prompt_id = a.prompt_id
), sums as (  -- squares as products: pow() would take longer than all the rest
    select
        w.sae_key, w.neuron,
        count(*) as support,
        sum(w.mean) as mass_mean,
        sum(w.peak) as mass_max,
        sum(w.share) as mass_count,
        sum(w.mean * w.mean) as square_mean,
        sum(w.peak * w.peak) as square_max,
        sum(w.share * w.share) as square_count,
        sum(w.act_count) as tokens,
        max(w.act_max) as max_activation
    from weights as w
    group by w.sae_key, w.neuron
)
select
    n.sae_key, n.neuron,
    coalesce(s.support, 0) as support,
    coalesce(s.mass_mean, 0) as mass_mean,
    coalesce(s.mass_max, 0) as mass_max,
    coalesce(s.mass_count, 0) as mass_count,
    coalesce(s.square_mean, 0) as square_mean,
    coalesce(s.square_max, 0) as square_max,
    coalesce(s.square_count, 0) as square_count,
    coalesce(s.tokens, 0) / (select sum(q.n_tokens) from prompts as q) as density,
    coalesce(s.max_activation, 0) as max_activation,
    n.decoder_norm, n.top_tokens, n.label
from old.neurons as n
left join sums as s on s.sae_key = n.sae_key and s.neuron = n.neuron
order by n.sae_key, n.neuron
