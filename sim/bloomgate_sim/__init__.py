"""``sim:``, the gateware itself compiled to native code and driven through its AXI port."""
