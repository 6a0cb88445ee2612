-- a list of notes: how many neurons are in it, and when it was changed last
select o.list, count(*) as neurons, max(o.created_at) as changed_at
from notes as o
group by o.list
order by o.list
