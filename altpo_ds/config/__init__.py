"""The run: schema, loading, batch arithmetic and the final DeepSpeed dict."""
