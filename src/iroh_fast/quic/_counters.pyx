"""Names of the frame counters, in the order of the slots."""

FRAME_NAMES = (
    "padding", "ping", "acks", "reset_stream", "stop_sending", "crypto", "new_token", "stream", "max_data",
    "max_stream_data", "max_streams_bidi", "max_streams_uni", "data_blocked", "stream_data_blocked",
    "streams_blocked_bidi", "streams_blocked_uni", "new_connection_id", "retire_connection_id", "path_challenge",
    "path_response", "connection_close", "handshake_done", "immediate_ack", "datagram", "ack_frequency", "path_acks",
    "path_abandon", "path_status_backup", "path_status_available", "path_new_connection_id",
    "path_retire_connection_id", "max_path_id", "paths_blocked", "path_cids_blocked", "observed_addr", "add_address",
    "reach_out", "remove_address")
