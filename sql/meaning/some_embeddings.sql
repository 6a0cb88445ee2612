-- the embedding of a reference prompt, of the prompts $prompts, in order
select e.vector
from embeddings as e
where e.prompt_id in (select unnest($prompts::uinteger[]))
order by e.prompt_id
