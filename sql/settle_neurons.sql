-- the neurons of the attached atlas `old`, with support, masses and largest activation over today's prompts
insert into neurons by name
with sums as (
    select
        a.sae_key, a.neuron,
        count(*) as support,
        sum(a.act_sum / p.sum_total) as mass_mean,
        sum(a.act_max / p.max_total) as mass_max,
        sum(a.act_count / p.count_total) as mass_count,
        sum(pow(a.act_sum / p.sum_total, 2)) as square_mean,
        sum(pow(a.act_max / p.max_total, 2)) as square_max,
        sum(pow(a.act_count / p.count_total, 2)) as square_count,
        sum(a.act_count) as tokens,
        max(a.act_max) as max_activation
    from activations as a
    join prompt_totals as p on p.sae_key = a.sae_key and p.prompt_id = a.prompt_id
    group by a.sae_key, a.neuron
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
