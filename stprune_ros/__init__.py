"""Token pruning for multi-camera vision-language models in ROS 2 (arXiv 2604.19145)."""

import pkgutil

# The generated message modules share this package's name; this finds them beside the sources.
__path__ = pkgutil.extend_path(__path__, __name__)
