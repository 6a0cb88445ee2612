-- a prompt of a shard, and whether its embedding is there already
select p.prompt_id, p.text, p.n_tokens, e.prompt_id is not null as embedded
from prompts as p
left join embeddings as e on e.prompt_id = p.prompt_id
where p.prompt_id >= $first and p.prompt_id < $first + $count
order by p.prompt_id
