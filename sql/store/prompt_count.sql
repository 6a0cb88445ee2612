-- one row: how many prompts there are
select count(*) as prompts from prompts
