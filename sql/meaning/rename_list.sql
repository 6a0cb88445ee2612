-- a list has another name
update notes set list = $new where list = $old
