"""One file per method; each ends with `Method = <class>` and is found by its file's name."""
