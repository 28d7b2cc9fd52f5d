"""Living with a home: bringing it to today's format, looking it over, freeing what nobody needs, renewing its root."""
