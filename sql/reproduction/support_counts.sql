-- an (SAE, range of support): how many of its neurons fired on so many reference prompts; ranges double, from 0 alone
with binned as (
    select n.sae_key, case when n.support = 0 then -1 else floor(log2(n.support))::integer end as bin
    from neurons as n
)
select
    e.sae_id,
    case when b.bin < 0 then 0 else pow(2, b.bin)::integer end as from_prompts,
    case when b.bin < 0 then 0 else pow(2, b.bin + 1)::integer - 1 end as to_prompts,
    count(*) as neurons,
    count(*) / e.d_sae as share
from binned as b
join saes as e on e.sae_key = b.sae_key
group by e.sae_key, e.sae_id, e.d_sae, b.bin
order by e.sae_key, b.bin
