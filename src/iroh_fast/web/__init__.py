"""What services that speak HTTP or TLS share: names, dialling, trust, and serving."""
