-- a Parquet file of the list $files, and how many rows its footer says it has
select f.file_name, f.num_rows as rows from parquet_file_metadata($files::varchar[]) as f
