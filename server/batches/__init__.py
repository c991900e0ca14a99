"""Batches: files of requests that are answered in the background, in OpenAI's shapes, and survive a crash.

No HTTP here: server/api/files.py and batches.py are the endpoints; server/api/in_process_executor.py answers the
requests.
"""
