"""Constructor arguments as a frozen configuration that can be saved, loaded and carried to another class."""

from diffusolve.config.files import ConfigFileError
from diffusolve.config.frozen import FrozenConfig, FrozenConfigError
from diffusolve.config.mixin import ConfigMixin, config_keys, registered_keys
from diffusolve.config.registration import register_to_config

__all__ = [
    "ConfigFileError",
    "ConfigMixin",
    "FrozenConfig",
    "FrozenConfigError",
    "config_keys",
    "register_to_config",
    "registered_keys",
]
