"""Failing claims show their values, as asserts in test files do."""

import pytest

pytest.register_assert_rewrite("moe_claims")
