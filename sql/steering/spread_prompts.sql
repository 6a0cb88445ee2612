-- a reference prompt, of so many that lie evenly among all
select p.text
from prompts as p
cross join (select count(*) as n from prompts) as s
where p.prompt_id::bigint * $count % s.n < $count
order by p.prompt_id
