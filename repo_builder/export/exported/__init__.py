from repo_builder.export.exported.door import open_exported

__all__ = ["open_exported"]
