"""Bad arguments for every public function and value."""
