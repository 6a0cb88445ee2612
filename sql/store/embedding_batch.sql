-- a reference prompt's embedding, of the $count prompts from number $first on; in no order: sorting them took half the time
select e.prompt_id, e.vector
from embeddings as e
where e.prompt_id >= $first::bigint and e.prompt_id < $first::bigint + $count::bigint
