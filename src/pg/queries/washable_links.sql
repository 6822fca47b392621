-- Tables that a TRUNCATE of another one must name or empties, too: those that refer to it, and its partitions.
SELECT confrelid AS of, conrelid AS also FROM pg_constraint WHERE contype = 'f'
UNION
SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
