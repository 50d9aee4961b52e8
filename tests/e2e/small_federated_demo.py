"""The command line with a federated demo of two rounds."""

from deepseek.cli.app import main
from deepseek.demo import federation

if __name__ == "__main__":
    federation.NUM_ROUNDS = 2
    main()
