"""Random questions to models of every family, answered by the package and by an independent reference."""
