-- a reference prompt's embedding
select e.prompt_id, e.vector from embeddings as e order by e.prompt_id
