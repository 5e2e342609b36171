"""All charts of tfllm, drawn with matplotlib, and the figures of runs that they show."""
