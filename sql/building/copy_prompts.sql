-- the rows of `prompts` and `embeddings` of the attached atlas `old` for the $count prompts from number $first on, sorted
insert into prompts by name
select o.* from old.prompts as o
where o.prompt_id >= $first::bigint and o.prompt_id < $first::bigint + $count::bigint
order by o.prompt_id;
insert into embeddings by name
select o.* from old.embeddings as o
where o.prompt_id >= $first::bigint and o.prompt_id < $first::bigint + $count::bigint
order by o.prompt_id;
