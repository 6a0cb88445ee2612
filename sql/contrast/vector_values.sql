-- a non-zero entry of a vector
select x."index", x.value
from vector_entries as x
where x.vector_id = $vector_id
order by x."index"
