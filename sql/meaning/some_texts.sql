-- a reference prompt's text, of the prompts $prompts, in order
select p.text
from prompts as p
where p.prompt_id in (select unnest($prompts::uinteger[]))
order by p.prompt_id
