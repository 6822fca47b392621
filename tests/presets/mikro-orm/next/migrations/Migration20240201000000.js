const { Migration } = require('@mikro-orm/migrations');
exports.Migration20240201000000 = class Migration20240201000000 extends Migration {
  async up() {
    this.addSql('create table orders (id int primary key);');
  }
};
