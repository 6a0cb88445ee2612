-- the neurons of the attached atlas `old`, with support, masses and largest activation over today's prompts
insert into neurons by name
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
left join neuron_sums as s on s.sae_key = n.sae_key and s.neuron = n.neuron
order by n.sae_key, n.neuron
