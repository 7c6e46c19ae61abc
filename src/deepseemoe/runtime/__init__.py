"""What every stage needs of the machine: logs, whole files, tables, seeds, progress, devices."""
